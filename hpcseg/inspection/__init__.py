"""Looking at data: what is wrong with a dataset, what its scans and labels are like, pictures of them."""
