"""Migrations: safe when many start at once, and refused in one sentence when database and code do not fit."""
