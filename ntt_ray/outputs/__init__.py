"""What a run leaves behind: shards of labels and the COCO files made of them."""
