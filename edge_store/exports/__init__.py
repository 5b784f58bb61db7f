"""Results for other programs: JSONL, CSV, Parquet, fine-tuning chats, spans; page by page of a live
box or any file, to go on with where a kill has cut it.
"""
