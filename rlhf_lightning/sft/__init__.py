"""Stage 1: supervised fine-tuning on demonstrations (§3.5, C.1). Data, packing, then the module."""
