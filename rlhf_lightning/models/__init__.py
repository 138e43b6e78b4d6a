"""Models: where weights come from (`backbone`), LoRA adapters on them (`adapters`), and the scalar head."""
