"""What a run leaves on disk and where its arrays lie. Knows no config and no network."""
