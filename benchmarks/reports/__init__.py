"""Tables, pages, pictures and the leaderboard of scores."""
