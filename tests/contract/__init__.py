"""The contract between gateway and agent, held fast: golden samples, schema hashes, versions, reading."""
