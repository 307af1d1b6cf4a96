"""The paper's equations: grid, gamma laws, residues, the step and its inverse, update rules, the slow reference."""
