"""The experiments of Zoph et al. 2020 as configurations: one for each cell of its tables that its authors trained."""
