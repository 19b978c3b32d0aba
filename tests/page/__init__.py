"""Tests of the live page: a real Chromium, a real gateway, real workers."""
