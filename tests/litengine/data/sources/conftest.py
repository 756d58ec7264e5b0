from streams import gets, small_shards, store

__all__ = ["gets", "small_shards", "store"]
