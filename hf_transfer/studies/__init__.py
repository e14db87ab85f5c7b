"""Studies: a grid of recipes, carried out once each, whatever happens in between."""
