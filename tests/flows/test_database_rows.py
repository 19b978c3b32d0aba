"""Rows that someone else wrote, changed or took away: refused, or that batch alone ends with a reason."""
