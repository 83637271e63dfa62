"""Results of a sweep as rows, tables and comparisons with the paper. No torch."""
