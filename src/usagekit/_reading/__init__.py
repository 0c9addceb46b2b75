"""Answering questions from a ledger: the smallest rollups that answer exactly, raw rows for what they leave over."""
