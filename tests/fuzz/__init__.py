"""Hostile input: every reader against damaged files and against files made to hurt, each in a process of its own."""
