"""Steps with an agent: into a storage, or into a recording."""
