"""Entry points: parse, check, call into the rooms below."""
