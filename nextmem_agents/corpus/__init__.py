"""Bulk work: whole corpora into a scope or a portable file, streamed, resumable, over processes or a cluster."""
