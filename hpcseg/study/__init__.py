"""What is to be done: sweep file to cells to stages with identities to a plan."""
