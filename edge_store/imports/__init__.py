"""History from elsewhere as results of this box: our own JSONL, ``llm``'s logs, LiteLLM's spend
logs, a table in PostgreSQL. Each source is one file that yields results; taking them is the same.
"""
