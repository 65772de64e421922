"""The operator's and labeller's web page. Holds no rule and no threshold."""
