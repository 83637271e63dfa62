"""glTF 2.0 → parts: container, accessors, primitives, materials, nodes."""
