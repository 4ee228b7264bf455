SELECT provider, difference_nano::text AS difference_nano FROM provider_comparisons
