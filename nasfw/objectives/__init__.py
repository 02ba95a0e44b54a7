"""What candidates are judged by: one number each."""
