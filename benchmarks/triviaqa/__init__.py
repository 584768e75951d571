"""TriviaQA, unfiltered: trivia of one hop with many aliases (Joshi et al. 2017)."""
