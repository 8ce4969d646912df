"""The two models. Each file knows one model family; none knows the method, Ray or the other."""
