"""A daemon under load, its Litestream, a store, and what goes wrong with them: replication's soak.
After each round what was said to be replicated is restored and compared.
"""
