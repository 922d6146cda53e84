"""Access of stages to hosts (`network_guard`), files (`file_access`) and `databases`, within configured limits."""
