-- Search that finds beginnings of words, words without their accents, and any part of a text in a
-- script that puts no spaces between words.
--
-- Without extensions: on managed databases they may be missing, or not ours to create. `voice.fold`
-- makes what is stored and what is looked for alike; texts are not stored a second time, the
-- indexes hold what they fold to. It must never fail: a row that cannot be indexed cannot be stored.

DO $$
DECLARE
    better text;
    folded text := 'left($1, 50000)';  -- Postgres refuses to index more than a megabyte of words
BEGIN
    IF current_setting('server_encoding') <> 'UTF8' THEN
        folded := format('lower(%s)', folded);  -- the rest is of Unicode
    ELSE
        -- Letters without their marks; what cannot be seen goes. Marks that make another letter
        -- (in Hangul, Kana, Indic scripts) are put together again.
        folded := format(
            $f$normalize(regexp_replace(normalize(%s, NFKD), '[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u00ad\u200b-\u200f\u2060\ufe00-\ufe0f\ufeff]', '', 'g'), NFC)$f$,
            folded);
        -- Small letters, also where the database itself knows only those of ASCII (its locale is C):
        -- ICU may not be there, and the second is of PostgreSQL 17.
        IF lower('Д') <> 'д' THEN
            SELECT format('(%s) COLLATE pg_catalog.%I', folded, collname) INTO better
            FROM pg_catalog.pg_collation
            WHERE collnamespace = 'pg_catalog'::regnamespace
              AND collname IN ('und-x-icu', 'pg_c_utf8', 'C.utf8', 'en_US.utf8')
              AND collencoding IN (-1, pg_char_to_encoding('UTF8'))
            ORDER BY collname = 'und-x-icu' DESC, collname = 'pg_c_utf8' DESC LIMIT 1;
        END IF;
        folded := format('lower(%s)', coalesce(better, folded));
        -- Letters that are not a letter with a mark, for who cannot type them.
        folded := format(
            $f$replace(replace(replace(translate(%s, 'øłđħŧıς', 'oldhtiσ'), 'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe')$f$,
            folded);
        -- Words and nothing between them: an address or a number with a point is several words.
        folded := format(
            $f$regexp_replace(%s, '[\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00bf\u00d7\u00f7\u2000-\u2bff\u2e00-\u2e7f\u3000-\u3004\u3008-\u3020\u3030-\u303f\u30fb\uff00-\uff65\ufff0-\uffff]+', ' ', 'g')$f$,
            folded);
        -- Thai, Lao, Burmese, Khmer, Kana, Bopomofo, Han: each character is a word.
        folded := format(
            $f$regexp_replace(%s, '([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])', ' \1 ', 'g')$f$,
            folded);
    END IF;
    EXECUTE format(
        'CREATE FUNCTION voice.fold(text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE'
        ' AS %L', 'SELECT ' || folded);
END
$$;
