"""Small apps with usagekit in them; `python -m examples.<name>` runs one. See the README of each."""
