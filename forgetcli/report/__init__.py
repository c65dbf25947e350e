"""What people look at: before/after pictures and a self-contained HTML page."""
