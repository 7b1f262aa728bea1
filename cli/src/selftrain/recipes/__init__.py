"""The experiments of Zoph et al. 2020 as configurations: the cells of its tables."""
