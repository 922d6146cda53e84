"""What goes over the wire: names and types are the contract's, whatever is ours to add is marked so."""
