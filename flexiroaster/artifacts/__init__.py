"""Tables between stages: the `store` of Arrow files, and `composite` tables that span several of them."""
