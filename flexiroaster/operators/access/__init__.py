"""What stages may reach: hosts (`network_guard`), files (`file_access`) and `databases`; `redaction` hides secrets."""
