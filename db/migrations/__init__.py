"""The schema's history, one file a step; `autotune.db.schema` runs it."""
