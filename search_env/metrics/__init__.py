"""Whether an answer is right, and how sure a mean is: pure functions of texts and numbers."""
