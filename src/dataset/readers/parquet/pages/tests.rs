use super::*;

#[test]
fn the_cache_forgets_the_page_that_was_longest_unused() {
    let cache = PageCache::default();
    let third = CACHE_BYTES_MAX / 3;
    for page in 0..3 {
        cache.put((0, 0, page), &Values::default(), third);
    }
    assert!(cache.get((0, 0, 0)).is_some());
    cache.put((0, 0, 3), &Values::default(), third);
    let kept: Vec<bool> = (0..4).map(|page| cache.get((0, 0, page)).is_some()).collect();
    assert_eq!(kept, [true, false, true, true]);
    // The same page put twice, as two threads may do, counts once.
    cache.put((0, 0, 3), &Values::default(), third);
    assert!((0..4).filter(|&page| cache.get((0, 0, page)).is_some()).count() == 3);
}
