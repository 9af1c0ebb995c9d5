"""What users hand over as input: tables and lists, told apart by their content."""
