"""A user's mesh files → scenes in G-Objaverse's format."""
