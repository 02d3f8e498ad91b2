"""A fit from data to adapter: preparation, training, test, tracking and estimates."""
