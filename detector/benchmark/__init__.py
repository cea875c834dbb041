"""Measurements of the program itself, for people who change it."""
