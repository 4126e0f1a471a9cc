"""Pictures on the host: sources of records, per-image preprocessing, batches. numpy only, never jax."""
