"""Breaks the maths on purpose, one small change at a time, and checks that a test notices each."""
