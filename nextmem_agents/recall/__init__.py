"""Recall: ranking, what it gives, and how it goes into a prompt."""
