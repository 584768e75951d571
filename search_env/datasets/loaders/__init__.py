"""One module for each published layout of questions and passages."""
