"""Words that fill the templates of the tasks."""

# English singular, plural; Spanish singular, plural; gender.
NOUNS = (
    ("house", "houses", "casa", "casas", "f"),
    ("book", "books", "libro", "libros", "m"),
    ("dog", "dogs", "perro", "perros", "m"),
    ("cat", "cats", "gato", "gatos", "m"),
    ("table", "tables", "mesa", "mesas", "f"),
    ("chair", "chairs", "silla", "sillas", "f"),
    ("car", "cars", "coche", "coches", "m"),
    ("flower", "flowers", "flor", "flores", "f"),
    ("tree", "trees", "árbol", "árboles", "m"),
    ("city", "cities", "ciudad", "ciudades", "f"),
    ("river", "rivers", "río", "ríos", "m"),
    ("window", "windows", "ventana", "ventanas", "f"),
    ("door", "doors", "puerta", "puertas", "f"),
    ("hat", "hats", "sombrero", "sombreros", "m"),
    ("shirt", "shirts", "camisa", "camisas", "f"),
    ("shoe", "shoes", "zapato", "zapatos", "m"),
    ("street", "streets", "calle", "calles", "f"),
    ("bird", "birds", "pájaro", "pájaros", "m"),
    ("horse", "horses", "caballo", "caballos", "m"),
    ("apple", "apples", "manzana", "manzanas", "f"),
    ("train", "trains", "tren", "trenes", "m"),
    ("letter", "letters", "carta", "cartas", "f"),
    ("garden", "gardens", "jardín", "jardines", "m"),
    ("bridge", "bridges", "puente", "puentes", "m"),
)
# English; Spanish masculine, feminine singular; the plurals add "s" or "es".
ADJECTIVES = (
    ("red", "rojo", "roja"),
    ("white", "blanco", "blanca"),
    ("black", "negro", "negra"),
    ("yellow", "amarillo", "amarilla"),
    ("small", "pequeño", "pequeña"),
    ("big", "grande", "grande"),
    ("green", "verde", "verde"),
    ("blue", "azul", "azul"),
    ("new", "nuevo", "nueva"),
    ("old", "viejo", "vieja"),
    ("pretty", "bonito", "bonita"),
    ("expensive", "caro", "cara"),
    ("clean", "limpio", "limpia"),
    ("dirty", "sucio", "sucia"),
    ("long", "largo", "larga"),
    ("strange", "extraño", "extraña"),
)
# English; Spanish with its article after "en".
PLACES = (
    ("kitchen", "la cocina"),
    ("park", "el parque"),
    ("school", "la escuela"),
    ("market", "el mercado"),
    ("station", "la estación"),
    ("museum", "el museo"),
    ("church", "la iglesia"),
    ("hotel", "el hotel"),
    ("library", "la biblioteca"),
    ("village", "el pueblo"),
)
# English with its subject; Spanish.
VERBS = (
    ("I see", "Veo"),
    ("I have", "Tengo"),
    ("I want", "Quiero"),
    ("We sell", "Vendemos"),
    ("We buy", "Compramos"),
    ("They paint", "Pintan"),
    ("She finds", "Ella encuentra"),
    ("He looks for", "Él busca"),
)
NAMES = (
    "Ana Luis Maria Pedro Elena Jorge Sofia Carlos Laura Diego Marta Pablo Clara Hugo Irene Oscar "
    "Paula Ramon Sara Tomas Vera Bruno Julia Marco Nadia Olga Peter Rosa Simon Teresa"
).split()
SURNAMES = (
    "Lopez Garcia Silva Moreno Castro Rivera Ortega Vargas Molina Suarez Campos Fuentes Reyes "
    "Navarro Ibarra Salas Duarte Pinto Marin Cruz"
).split()
CITIES = (
    "Lima Quito Madrid Bogota Lisbon Rome Paris Berlin Vienna Prague Oslo Dublin Athens Cairo "
    "Tokyo Delhi Havana Boston Geneva Warsaw"
).split()
JOBS = (
    "nurse baker pilot farmer lawyer dancer singer painter doctor teacher driver cook writer judge "
    "tailor sailor guide clerk chemist plumber"
).split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
# Country; capital, continent, currency, language.
FACTS = (
    ("France", "Paris", "Europe", "euro", "French"),
    ("Spain", "Madrid", "Europe", "euro", "Spanish"),
    ("Italy", "Rome", "Europe", "euro", "Italian"),
    ("Germany", "Berlin", "Europe", "euro", "German"),
    ("Portugal", "Lisbon", "Europe", "euro", "Portuguese"),
    ("Greece", "Athens", "Europe", "euro", "Greek"),
    ("Poland", "Warsaw", "Europe", "zloty", "Polish"),
    ("Hungary", "Budapest", "Europe", "forint", "Hungarian"),
    ("Norway", "Oslo", "Europe", "krone", "Norwegian"),
    ("Sweden", "Stockholm", "Europe", "krona", "Swedish"),
    ("Denmark", "Copenhagen", "Europe", "krone", "Danish"),
    ("Iceland", "Reykjavik", "Europe", "krona", "Icelandic"),
    ("Romania", "Bucharest", "Europe", "leu", "Romanian"),
    ("Ukraine", "Kyiv", "Europe", "hryvnia", "Ukrainian"),
    ("Albania", "Tirana", "Europe", "lek", "Albanian"),
    ("Russia", "Moscow", "Europe", "ruble", "Russian"),
    ("Turkey", "Ankara", "Asia", "lira", "Turkish"),
    ("Japan", "Tokyo", "Asia", "yen", "Japanese"),
    ("China", "Beijing", "Asia", "yuan", "Chinese"),
    ("Thailand", "Bangkok", "Asia", "baht", "Thai"),
    ("Vietnam", "Hanoi", "Asia", "dong", "Vietnamese"),
    ("Mongolia", "Ulaanbaatar", "Asia", "tugrik", "Mongolian"),
    ("Nepal", "Kathmandu", "Asia", "rupee", "Nepali"),
    ("Laos", "Vientiane", "Asia", "kip", "Lao"),
    ("Iran", "Tehran", "Asia", "rial", "Persian"),
    ("Iraq", "Baghdad", "Asia", "dinar", "Arabic"),
    ("Jordan", "Amman", "Asia", "dinar", "Arabic"),
    ("Georgia", "Tbilisi", "Asia", "lari", "Georgian"),
    ("Armenia", "Yerevan", "Asia", "dram", "Armenian"),
    ("Bangladesh", "Dhaka", "Asia", "taka", "Bengali"),
    ("Egypt", "Cairo", "Africa", "pound", "Arabic"),
    ("Morocco", "Rabat", "Africa", "dirham", "Arabic"),
    ("Tunisia", "Tunis", "Africa", "dinar", "Arabic"),
    ("Ethiopia", "Addis Ababa", "Africa", "birr", "Amharic"),
    ("Ghana", "Accra", "Africa", "cedi", "English"),
    ("Nigeria", "Abuja", "Africa", "naira", "English"),
    ("Zambia", "Lusaka", "Africa", "kwacha", "English"),
    ("Angola", "Luanda", "Africa", "kwanza", "Portuguese"),
    ("Brazil", "Brasilia", "South America", "real", "Portuguese"),
    ("Chile", "Santiago", "South America", "peso", "Spanish"),
    ("Argentina", "Buenos Aires", "South America", "peso", "Spanish"),
    ("Uruguay", "Montevideo", "South America", "peso", "Spanish"),
    ("Colombia", "Bogota", "South America", "peso", "Spanish"),
    ("Venezuela", "Caracas", "South America", "bolivar", "Spanish"),
    ("Ecuador", "Quito", "South America", "dollar", "Spanish"),
    ("Mexico", "Mexico City", "North America", "peso", "Spanish"),
    ("Cuba", "Havana", "North America", "peso", "Spanish"),
    ("Honduras", "Tegucigalpa", "North America", "lempira", "Spanish"),
    ("Guatemala", "Guatemala City", "North America", "quetzal", "Spanish"),
    ("Canada", "Ottawa", "North America", "dollar", "English"),
)
# Base, third person, past.
ACTIONS = (
    ("go", "goes", "went"),
    ("walk", "walks", "walked"),
    ("run", "runs", "ran"),
    ("drive", "drives", "drove"),
    ("come", "comes", "came"),
    ("return", "returns", "returned"),
    ("travel", "travels", "travelled"),
    ("fly", "flies", "flew"),
    ("ride", "rides", "rode"),
    ("hurry", "hurries", "hurried"),
)
# Subject, and whether its verb takes the third person.
SUBJECTS = (
    ("I", False),
    ("You", False),
    ("We", False),
    ("They", False),
    ("She", True),
    ("He", True),
    ("My friend", True),
    ("The teacher", True),
    ("The children", False),
    ("Her brother", True),
)
TOPICS = (
    "rain snow bread music football winter coffee school money water summer paper traffic chess "
    "fishing wine history light silver cotton"
).split()
SAYINGS = (
    "{} is dear this year",
    "nobody here likes {}",
    "{} came late to the valley",
    "my aunt writes about {}",
    "the town lives on {}",
    "children learn about {} early",
    "{} matters to the old men",
    "we talked about {} all day",
)
