"""Images on the host: sources of records, one image's transforms, batches. numpy only, never JAX."""
