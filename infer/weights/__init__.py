"""The weights that come with the package; README.md beside this file is their model card."""
