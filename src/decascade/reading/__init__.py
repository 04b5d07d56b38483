"""Files as users give them (models, data, ranges, tables, plans, reports), looked at before anything is made of them."""
