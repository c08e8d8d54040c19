"""Scores: clouds against a reference cloud, depth maps against measured depth, and the table of an experiment."""
