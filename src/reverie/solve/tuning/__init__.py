"""Fitting plans to a model: grids, ratios, statistics, tables and whole methods, and the searches that find them."""
