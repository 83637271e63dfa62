"""Where scenes lie on disk: folders, tars, renderings with transforms.json, the packed form."""
