"""Published weights as parameters of ours."""
